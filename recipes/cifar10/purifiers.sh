#!/bin/sh
# Purifiers in front of a ResNet-20 that stays as it is: two trainings of five minutes on one core, and attacks by who
# does not know of the filter and who does.
#
#   APERCU_DATA=… recipes/cifar10/purifiers.sh [quantised_autoencoder stochastic_student]
#
# APERCU_DATA holds `data/` and `models/`. All goes to runs/purifiers; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="quantised_autoencoder stochastic_student"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
runs=${RUNS:-runs/purifiers}
attacks="pgd:epsilon=8/255,pgd:epsilon=4/255,eot_pgd:epsilon=8/255"

for name in ${*:-$studies}; do
    [ -f "$runs/$name/card.json" ] ||
        .venv/bin/python -m apercu stress train --classifier "$data/models/resnet20_cifar10.pt2.json" --resume \
            --images "$data/data/cifar10/train.parquet" --config "recipes/cifar10/$name.yaml" --out "$runs/$name"
    .venv/bin/python -m apercu stress --classifier "$runs/$name/card.json" --limit 200 --batch 50 \
        --images "$data/data/cifar10/test.parquet" --attacks "$attacks" --out "$runs/stress-$name"
done
