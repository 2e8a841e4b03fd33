"""COCO's numbers of a detector, or of a predictions file.

python -m detection.evaluate weights=detector.safetensors data=coco data.root=…
python -m detection.evaluate predictions=predictions.json data=coco data.root=…
"""

if __name__ == "__main__":
    from conf.app import main

    main("detection_evaluate", "detection.evaluation.run:run")
