"""The cache: frames as xarray datasets in one zarr hierarchy, each published whole."""
