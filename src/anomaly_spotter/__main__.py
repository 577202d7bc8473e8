"""``python -m anomaly_spotter`` is the command line."""

from anomaly_spotter.cli import main

if __name__ == "__main__":
    main()
