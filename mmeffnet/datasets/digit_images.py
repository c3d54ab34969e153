"""The handwritten digits that scikit-learn carries, and their fixed split."""
import numpy as np

TEST_SHARE = 0.2
SPLIT_SEED = 0
WHITE = 16  # pixels of the source run from 0 to 16


def digit_images(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 8, 8) uint8, labels (N, ) and places in the source of one part.

    split: 'train' (1,437 digits) or 'test' (360), stratified.
    Source: UCI "Optical Recognition of Handwritten Digits", CC BY 4.0.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    digits = load_digits()
    train, test = train_test_split(np.arange(len(digits.target)), test_size=TEST_SHARE,
                                   random_state=SPLIT_SEED, stratify=digits.target)
    chosen = train if split == 'train' else test
    images = np.round(digits.images[chosen] * (255 / WHITE)).astype(np.uint8)
    return images, digits.target[chosen], chosen
