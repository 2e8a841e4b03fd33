"""Metrics and mistakes of a network on labelled images.

python -m classification.evaluate weights=backbone.safetensors data=cifar10 data.root=…
"""

if __name__ == "__main__":
    from conf.app import main

    main("classification_evaluate", "classification.evaluation:run")
