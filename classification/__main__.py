from classification.train import run
from conf.app import main

if __name__ == "__main__":
    main("classification", run)
