#!/bin/sh
# Classifiers of chest films by `apercu train classifier`, and whether their gradient lies in the lungs.
# About ten minutes of one core for each, twenty for `films_centre`.
#
#   APERCU_DATA=… recipes/labels/films.sh [films films_kept_norms films_centre]
#
# APERCU_DATA holds `models/` and `data/`. All goes to runs/films; what is there is kept.
set -eu
cd "$(dirname "$0")/../.."
. recipes/studies.sh
studies="films films_kept_norms films_centre"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
bin=.venv/bin
out=runs/films
films=$data/data/cxr-kermany

train() { # name config [options]
    name=$1 config=$2
    shift 2
    [ -f "$out/$name/card.json" ] ||
        $bin/apercu train classifier --images "$films/train" --labels $out/train.csv --group patient \
            --test "$films/test" --test-labels $out/test.csv --network "$data/models/mobilenetv2_100.json" \
            --config "recipes/labels/$config.yaml" --out "$out/$name" --resume "$@"
}

[ -f $out/test.csv ] || $bin/python recipes/labels/lungs.py "$data/data" $out
for study in ${*:-$studies}; do
    case $study in
    films) train films films ;;
    films_kept_norms) train films_kept_norms films_kept_norms ;;
    films_centre) # what surrounds the chest is exchanged
        train films_centre films_kept_norms --recipe background_exchange:object=centre,size=0.8
        ;;
    esac
    $bin/apercu compare --classifier "$out/$study" --images $out/lungs \
        --methods gradient,grad_cam,whole_box --metrics energy --no-cost --out "$out/energy-$study"
done
