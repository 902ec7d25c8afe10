"""The live node: the only part of the package that imports rclpy."""
