#!/bin/sh
# MobileNetV2 learns three further representations from its own answers to ten classes, and is attacked on
# photographs that are held out. About an hour of one core.
#
#   APERCU_DATA=… recipes/imagenette/hybrid.sh [train naive adaptive checks]
#
# Of the ten classes of which `data/imagenet-train` has 201 photographs every fifth is held out. The classifier
# has seen all of them when it was trained: they tell what attacks take away, not how accurate it is. All goes to
# runs/; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="train naive adaptive checks"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
bin=.venv/bin
card=$data/models/mobilenetv2_100.json
split=runs/imagenette-split

divide() { # links in two folders
    rm -rf "$split.part"
    for class in "$data"/data/imagenet-train/*/; do
        set -- "$class"*
        [ $# -gt 100 ] || continue
        number=0
        for photograph; do
            number=$((number + 1))
            part=train
            [ $((number % 5)) -ne 0 ] || part=test
            mkdir -p "$split.part/$part/$(basename "$class")"
            ln -s "$(realpath "$photograph")" "$split.part/$part/$(basename "$class")/"
        done
    done
    mv "$split.part" "$split"
}
filters=none,floyd_steinberg,low_resolution,jpeg:quality=25
gradients=pgd,pgd:steps=30,pgd:restarts=3,margin_pgd,margin_pgd:steps=30,eot_pgd:steps=5
attack() { # name, SPEC, then options
    name=$1
    spec=$2
    shift 2
    $bin/apercu stress --classifier "$spec" --images "$split/test" --out "runs/imagenette-$name" \
        --epsilons 4/255 "$@"
}
[ -d "$split" ] || divide
for study in ${*:-$studies}; do
    case $study in
    train)
        [ -f runs/imagenette/card.json ] ||
            $bin/apercu stress train --classifier "$card" --images "$split/train" \
                --config recipes/imagenette/hybrid.yaml --out runs/imagenette --resume
        ;;
    naive)
        attack before "$card" --filters $filters --knowledge naive --limit 200
        attack naive runs/imagenette/card.json --filters $filters --knowledge naive --limit 200 \
            --surrogate "$card"
        ;;
    adaptive)
        attack adaptive runs/imagenette/card.json --filters $filters --knowledge adaptive --limit 200 \
            --attacks fgsm,pgd
        ;;
    checks)
        attack checks runs/imagenette/card.json --filters floyd_steinberg --knowledge adaptive --limit 32 \
            --attacks $gradients,sparse_evo:queries=300,square:queries=300,square:queries=1500
        ;;
    esac
done
