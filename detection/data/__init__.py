"""COCO-format data: annotations, images, labels of other formats, the embedded scenes."""
