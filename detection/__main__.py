from conf.app import main
from detection.train import run

if __name__ == "__main__":
    main("detection", run)
