#!/bin/sh
# Two classifiers of chest films by `apercu train classifier`, and whether their gradient lies in the lungs.
# About twenty minutes of one core.
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
for name in films films_kept_norms; do
    [ -f $out/$name/card.json ] ||
        $bin/apercu train classifier --images "$films/train" --labels $out/train.csv --group patient \
            --test "$films/test" --test-labels $out/test.csv --network "$data/models/mobilenetv2_100.json" \
            --config recipes/labels/$name.yaml --out $out/$name --resume
    $bin/apercu compare --classifier $out/$name --images $out/lungs \
        --methods gradient,grad_cam,whole_box --metrics energy --no-cost --out $out/energy-$name
done
