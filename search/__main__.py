from conf.app import main
from search.runner import run

if __name__ == "__main__":
    main("search", run)
