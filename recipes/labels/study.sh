#!/bin/sh
# Recipes × share of the labels on alerts, galaxies and chest films. Many hours of one core: a last layer takes seconds,
# a whole network a minute for each seed, `generated` several. `study.py train` takes --chains and --tasks for a part.
#
#   APERCU_DATA=… recipes/labels/study.sh [SHARE …]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/labels; what is there is kept, and what
# was interrupted goes on. Without shares: 5 % of the labels first, then 25, 1, 10 and 100 %.
set -eu
cd "$(dirname "$0")/../.."
shared=${APERCU_DATA:-../shared}
export APERCU_DATA="$shared"
bin=.venv/bin
run=runs/labels

[ -f $run/data/test.npz ] || $bin/python recipes/ztf/prepare.py "$shared/data/ztf" $run/data

pretrain() { # name pretext images steps [options]
    name=$1 pretext=$2 images=$3 steps=${STEPS:-$4}
    shift 4
    [ -f "$run/pretrained/$name/card.json" ] ||
        $bin/apercu pretrain "$pretext" --images "$images" --backbone timm/resnet10t --batch 32 \
            --out "$run/pretrained/$name" --steps "$steps" --resume "$@"
}

pretrain ztf magnitudes $run/data/learn.npz 1500 --catalogue "$shared/data/ztf/alerts.parquet" \
    --id candid --target magnr,magpsf
pretrain galaxies contrastive "$shared/data/star-galaxy/train" 400
pretrain films adios "$shared/data/cxr-kermany/train" 500 --channels 1 --size 64 \
    --config recipes/pretraining/adios.yaml

for share in ${*:-0.05 0.25 0.01 0.1 1}; do
    $bin/python recipes/labels/study.py train $run --shares "$share"
done
$bin/python recipes/labels/study.py table $run
