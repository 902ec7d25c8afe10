"""Anonymize faces and licence plates in ROS 2 camera streams and recordings."""

__version__ = '0.1.0'
