from conf.app import main

if __name__ == "__main__":
    main("pipeline", "pipeline.chain:run")
