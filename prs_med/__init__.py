"""PRS-Med: train and evaluate position reasoning segmentation at scale."""

__version__ = "0.1.0"
