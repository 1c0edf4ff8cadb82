#!/bin/sh
# What a guard recognises on photographs: attacks, unknown kinds, and who knows of the guard.
# About an hour of one core for each classifier. `lite0_explained` also observes the masks of the
# ready-made explainer; the attacks that know of the guard and the slow ones are left out there.
#
#   APERCU_DATA=… recipes/guard/photographs.sh [mobilenetv2 lite0 lite0_explained]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/guard; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="mobilenetv2 lite0 lite0_explained"
check_studies "$studies" "$@"
data=${APERCU_DATA:?is the folder that holds models and data}
bin=${APERCU_BIN:-.venv/bin/python -m apercu}
halves=runs/guard/halves
clean=$halves/measure
[ -d $halves ] || .venv/bin/python recipes/guard/halves.py "$data/data/imagenet-val" $halves

measure() { # name classifier part limit [options]
    name=$1 classifier=$2 part=$3 limit=$4
    shift 4
    $bin guard measure "$classifier" --images "$clean" --guard "runs/guard/$name" $explainer \
        --limit "$limit" --out "runs/guard/$name-$part" "$@"
}

for name in ${*:-$studies}; do
    classifier=ready:efficientnet_lite0 explainer=
    case $name in
    mobilenetv2) classifier=$data/models/mobilenetv2_100.json ;;
    lite0) ;;
    lite0_explained) explainer="--explainer $classifier" ;;
    esac
    [ -f "runs/guard/$name/guard.json" ] ||
        $bin guard fit "$classifier" --images "$data/data/imagenet-train" $explainer \
            --calibration $halves/calibrate --out "runs/guard/$name"
    measure "$name" "$classifier" kinds 250 --attacks fgsm \
        --unknown "$data/data/cxr-nih" --unknown "$data/data/star-galaxy/train" --unknown planted \
        --unknown "$data/data/cifar10/test.parquet" --unknown noise --unknown backgrounds
    [ -d runs/guard/handled ] || .venv/bin/python recipes/guard/handled.py "$clean" runs/guard/handled 200
    measure "$name" "$classifier" handled 200 --attacks none --unknown runs/guard/handled/stored-again \
        --unknown runs/guard/handled/halved --unknown runs/guard/handled/grey
    measure "$name" "$classifier" pgd 96 --attacks pgd
    [ -z "$explainer" ] || continue
    measure "$name" "$classifier" aware 32 --epsilons 4/255,8/255 \
        --attacks aware_pgd:steps=20,smooth_pgd:steps=20,aware_smooth_pgd:steps=20
    measure "$name" "$classifier" slow 32 --attacks carlini_wagner,sparse_evo
done
