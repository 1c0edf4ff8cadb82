#!/bin/sh
# A classifier of chest films by `apercu train classifier`, and whether its gradient lies in the lungs.
# About ten minutes of one core.
#
#   APERCU_DATA=… recipes/labels/films.sh
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/films; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}
bin=.venv/bin
out=runs/films
films=$data/data/cxr-kermany

[ -f $out/test.csv ] || $bin/python recipes/labels/lungs.py "$data/data" $out
[ -f $out/classifier/card.json ] ||
    $bin/apercu train classifier --images "$films/train" --labels $out/train.csv --group patient \
        --test "$films/test" --test-labels $out/test.csv --network "$data/models/mobilenetv2_100.json" \
        --config recipes/labels/films.yaml --out $out/classifier --resume
$bin/apercu compare --classifier $out/classifier --images $out/lungs \
    --methods gradient,grad_cam,whole_box --metrics energy --no-cost --out $out/energy
