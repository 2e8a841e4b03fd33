"""How far short training ranks cells as a longer one does.

python -m search.probe data=cifar10 data.root=… cells=20 child.epochs=5 epochs=40
"""

if __name__ == "__main__":
    from conf.app import main

    main("search_probe", "search.probing:probe")
