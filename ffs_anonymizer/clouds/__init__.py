"""Regions of an image carried into three dimensions: coloured point clouds and depth images."""
