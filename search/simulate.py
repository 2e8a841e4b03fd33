"""A search on workers whose time is virtual: how busy they are, what staleness costs, what the driver needs.

python -m search.simulate children=20000 workers=500 window=1000 strategy=random
"""

if __name__ == "__main__":
    from conf.app import main

    main("search_simulate", "search.simulation:run")
