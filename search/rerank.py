"""Trains the best cells of a search longer, and writes the best one.

python -m search.rerank dir=runs/search/… top=250 child.epochs=100 seeds=2
"""

if __name__ == "__main__":
    from conf.app import main

    main("search_rerank", "search.reranking:rerank")
