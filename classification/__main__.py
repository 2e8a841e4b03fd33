from conf.app import main

if __name__ == "__main__":
    main("classification", "classification.train:run")
