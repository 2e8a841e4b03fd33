from conf.app import main

if __name__ == "__main__":
    main("search", "search.run:run")
