#!/bin/sh
# Two maps with the same order of pixels: which metrics tell them apart? Minutes of two cores.
#
#   APERCU_DATA=… recipes/calibration/measure.sh [CLASSIFIER]
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:?is the folder that holds data/imagenet-val and models}
.venv/bin/apercu compare --classifier "${1:-$data/models/mobilenetv2_100.json}" \
    --images "$data/data/imagenet-val" --limit 50 --protocol gomez --cells 7 --no-cost \
    --methods cam,recipes/calibration/powers.py:CamPower:power=2,recipes/calibration/powers.py:CamPower \
    --against cam --out runs/calibration
