#!/bin/sh
# Chest films: a pneumonia classifier, counterparts for it, and where they point. Hours on two cores.
#
#   APERCU_DATA=… recipes/chest/study.sh
#
# APERCU_DATA holds `models/` and `data/`. All of it goes to runs/chest; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}
bin=.venv/bin
out=runs/chest

[ -f $out/classifier/card.json ] ||
    $bin/python recipes/chest/classifier.py "$data/data" "$data/models" $out/classifier
[ -f $out/counterpart/weights.safetensors ] ||
    $bin/apercu train counterpart --classifier $out/classifier/card.json \
        --images "$data/data/cxr-kermany/train" --out $out/counterpart --resume
$bin/apercu compare --classifier $out/classifier/card.json --images "$data/data/cxr-nih" \
    --explainer $out/counterpart \
    --methods cam,grad_cam,gradient,occlusion,centre_blob,centre_box \
    --metrics ncc,iou_over_percentiles,iou_at_area,pointing_game --out $out/compare-nih
