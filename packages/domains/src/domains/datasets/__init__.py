"""Datasets: tables that people upload, profiled by a job."""
