from conf.app import main

if __name__ == "__main__":
    main("pipeline_machine", "pipeline.machine.run:run")
