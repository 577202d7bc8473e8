"""Stage 1, pictures in: layouts, decoding, preprocessing, augmentation, synthetic defects, audit, sample data."""
