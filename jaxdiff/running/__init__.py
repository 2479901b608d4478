"""Devices and disks."""
