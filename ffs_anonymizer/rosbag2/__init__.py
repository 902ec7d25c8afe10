"""Recordings in the formats of rosbag2, without ROS."""
