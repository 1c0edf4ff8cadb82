#!/bin/sh
# What a guard recognises on photographs: attacks, unknown kinds, and who knows of the guard.
# About two hours of one core.
#
#   APERCU_DATA=… recipes/guard/photographs.sh [mobilenetv2 lite0]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/guard; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:?is the folder that holds models and data}
bin=${APERCU_BIN:-.venv/bin/python -m apercu}
honest=$data/data/imagenet-val

measure() { # name classifier part limit options
    name=$1 classifier=$2 part=$3 limit=$4
    shift 4
    $bin guard measure "$classifier" --images "$honest" --guard "runs/guard/$name" \
        --limit "$limit" --out "runs/guard/$name-$part" "$@"
}

for name in ${*:-mobilenetv2 lite0}; do
    case $name in
    mobilenetv2) classifier=$data/models/mobilenetv2_100.json ;;
    lite0) classifier=ready:efficientnet_lite0 ;;
    esac
    [ -f "runs/guard/$name/guard.json" ] ||
        $bin guard fit "$classifier" --images "$data/data/imagenet-train" --out "runs/guard/$name"
    measure "$name" "$classifier" kinds 200 --attacks fgsm,pgd \
        --unknown "$data/data/cxr-nih" --unknown "$data/data/star-galaxy/train" --unknown planted \
        --unknown "$data/data/cifar10/test.parquet" --unknown noise --unknown backgrounds
    measure "$name" "$classifier" aware 48 --attacks aware_pgd:steps=30,smooth_pgd,aware_smooth_pgd
    measure "$name" "$classifier" slow 24 --attacks carlini_wagner,sparse_evo
done
