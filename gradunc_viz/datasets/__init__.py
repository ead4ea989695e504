"""Folders of images and masks as published data sets lay them out."""
