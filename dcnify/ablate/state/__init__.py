"""What has been done of a sweep: Optuna's storage, and the files in its folder."""
