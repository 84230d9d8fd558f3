"""One training run: loop, optimizer, augmentation, report."""
