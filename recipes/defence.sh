#!/bin/sh
# MobileNetV2 learns halftones from its own answers, and is attacked again. About two hours on two cores.
#
#   APERCU_DATA=… recipes/defence.sh [train naive adaptive detect]
#
# APERCU_DATA holds `models/` and `data/`; recipes/photographs.sh has trained the explainer. All goes to
# runs/; what is there is kept.
set -eu
cd "$(dirname "$0")/.."
. recipes/studies.sh
studies="train naive adaptive detect"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
bin=.venv/bin
card=$data/models/mobilenetv2_100.json
photographs=$data/data/imagenet-val

attack() { # name, then options
    name=$1
    shift
    $bin/apercu stress --classifier runs/hybrid/card.json --images "$photographs" \
        --out "runs/hybrid-$name" "$@"
}
for study in ${*:-$studies}; do
    case $study in
    train) # 3,000 photographs, no labels
        [ -f runs/hybrid/card.json ] ||
            $bin/apercu stress train --classifier "$card" --images "$data/data/imagenet-train" \
                --out runs/hybrid --resume
        ;;
    naive) # attacked without the filter, or with the undefended classifier, shown behind it
        attack naive --filters none,floyd_steinberg --knowledge naive --limit 250 \
            --surrogate "$card"
        ;;
    adaptive) # attacked through the filter, more steps, over noise, by decisions alone
        attack adaptive --filters floyd_steinberg --knowledge adaptive --epsilons 4/255 \
            --attacks fgsm,pgd,eot_pgd:steps=5,pgd:steps=30,sparse_evo:queries=300 --limit 32
        ;;
    detect)
        $bin/apercu stress detect --classifier "$card" --images "$photographs" \
            --explainer runs/mobilenetv2 --looks map,stability,stability:median,cam,deep \
            --attacks fgsm,pgd --out runs/detect-photographs
        ;;
    esac
done
