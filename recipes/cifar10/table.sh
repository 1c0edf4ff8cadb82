#!/bin/sh
# The table of Lo and Patel (2021) in shape, with a small network: three trainings, five attacks, and
# Sinkhorn adversarial training beside them; then checks against false security. Three hours on two cores.
#
#   APERCU_DATA=… recipes/cifar10/table.sh
#
# APERCU_DATA holds `data/`. All goes to runs/cifar10-*; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
data=${APERCU_DATA:-../shared}
bin=.venv/bin
attacks="pgd:epsilon=8/255,pgd:norm=l2,epsilon=0.009,mult:ratio=1.06,mult:norm=l2,ratio=1.03"
checks="pgd:epsilon=8/255,steps=30,margin_pgd:epsilon=8/255,eot_pgd:epsilon=8/255"
checks="$checks,square:epsilon=8/255,queries=1500"

for name in standard halftone_adversarial adversarial sinkhorn; do
    [ -f "runs/cifar10-$name/card.json" ] ||
        $bin/apercu stress train --classifier recipes/cifar10/network.json --resume \
            --images "$data/data/cifar10/train.parquet" --config "recipes/cifar10/$name.yaml" \
            --out "runs/cifar10-$name"
done

attack() { # training, attacks, then options
    name=$1 asked=$2
    shift 2
    $bin/apercu stress --classifier "runs/cifar10-$name/card.json" --batch 50 --limit 300 \
        --images "$data/data/cifar10/test.parquet" --out "runs/cifar10-table/$name" \
        --attacks "$asked" "$@"
}
attack standard "$attacks" --filters none
attack adversarial "$attacks,$checks" --filters none
attack sinkhorn "$attacks" --filters none
attack halftone_adversarial "$attacks,$checks" --filters floyd_steinberg \
    --knowledge adaptive --surrogate runs/cifar10-adversarial/card.json
