#!/bin/sh
# What averaging over turned, enlarged, moved and mirrored copies does to each method, on photographs.
# About an hour and a half on two cores. For chest films see recipes/chest/study.sh.
#
#   APERCU_DATA=… recipes/augmented.sh
#
# Needs recipes/photographs.sh mobilenetv2. The table goes to runs/augmented-mobilenetv2; finished rows
# are kept. At the end the paired differences are printed, with their intervals.
set -eu
cd "$(dirname "$0")/.."
data=${APERCU_DATA:-../shared}
plain="gradient,integrated_gradients:steps=20,cam,grad_cam,occlusion,rise:masks=300"
turned="mask:augmented=8,gradient:augmented=8,integrated_gradients:steps=20,augmented=8"
turned="$turned,cam:augmented=8,grad_cam:augmented=8,occlusion:augmented=8"
.venv/bin/apercu compare --classifier "$data/models/mobilenetv2_100.json" \
    --images "$data/data/imagenet-val" --explainer runs/mobilenetv2 --methods "$plain,$turned" \
    --limit 100 --metrics ncc,iou_over_percentiles,iou_at_area,pointing_game,energy \
    --out runs/augmented-mobilenetv2
.venv/bin/python recipes/averaged.py runs/augmented-mobilenetv2
