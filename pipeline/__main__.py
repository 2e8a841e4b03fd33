from conf.app import main
from pipeline.chain import run

if __name__ == "__main__":
    main("pipeline", run)
