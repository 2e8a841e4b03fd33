"""What it takes to score one child: images, training, predicted cost."""
