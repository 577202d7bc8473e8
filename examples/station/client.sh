#!/bin/sh
# Inspect a picture with a running station:  STATION=http://127.0.0.1:8000 STATION_KEY=spot_... sh client.sh part.png
set -eu
station=${STATION:-http://127.0.0.1:8000}
key=${STATION_KEY:-}

# The verdict as JSON. The Idempotency-Key makes it safe to repeat: the picture counts once.
curl --fail-with-body --silent --show-error --retry 5 \
    -H "X-API-Key: $key" -H "Idempotency-Key: $(cksum < "$1" | tr ' ' -)" \
    -F "picture=@$1" "$station/api/v1/inspections"
echo

# The last defects as a table.
curl --fail-with-body --silent --show-error -H "X-API-Key: $key" "$station/api/v1/inspections.csv?verdict=DEFECT"
