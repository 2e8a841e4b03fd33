"""Sheets of images as a training or an evaluation sees them, resized and augmented, with boxes and names.

python -m detection.preview experiment=own_photos data.root=…
python -m detection.preview run=RUN_DIR
"""

if __name__ == "__main__":
    from conf.app import main

    main("detection_preview", "detection.training.sheets:run")
