"""Parts of Faster R-CNN that the engines share."""
