from conf.app import main

if __name__ == "__main__":
    main("machine", "pipeline.machine.run:run")
