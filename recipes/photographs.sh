#!/bin/sh
# The mask explainer on real photographs: train, compare, draw the pictures. Hours on two cores.
#
#   APERCU_DATA=… recipes/photographs.sh [mobilenetv2 sharp sharp_curves squeezenet_sharp lite0_sharp
#       paper release lean lean_protocols lean_curves permuted squeezenet_lean lite0_lean blackbox_lean squeezenet
#       blackbox cifar10 cifar10_onnx]
#
# APERCU_DATA holds `models/` and `data/`. Runs and tables go to runs/; what is there is kept.
set -eu
cd "$(dirname "$0")/.."
. recipes/studies.sh
studies="mobilenetv2 sharp sharp_curves squeezenet_sharp lite0_sharp paper release lean lean_protocols lean_curves permuted squeezenet_lean lite0_lean blackbox_lean squeezenet blackbox cifar10 cifar10_onnx"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
bin=.venv/bin
photographs="cam,grad_cam,gradient,centre_box,true_box,whole_box"

name_classifier() { # classifier: a file of APERCU_DATA, or a SPEC
    case $1 in
    ready:* | runs/*) echo "$1" ;;
    *) echo "$data/models/$1" ;;
    esac
}

train() { # name classifier images [options]
    name=$1 classifier=$2 images=$3
    shift 3
    [ -f "runs/$name/weights.safetensors" ] && return
    $bin/apercu train mask --classifier "$(name_classifier "$classifier")" --images "$data/data/$images" \
        --out "runs/$name" --resume "$@"
}

compare() { # name classifier images methods [options]
    name=$1 classifier=$2 images=$3 methods=$4
    shift 4
    $bin/apercu compare --classifier "$(name_classifier "$classifier")" --images "$data/data/$images" \
        --explainer "runs/$name" --methods "$methods" --metrics "$metrics" \
        --out "runs/compare-$study" "$@"
}

published() { # settings as published, as far as few photographs and one core allow
    train "$1" mobilenetv2_100.json imagenet-train --config "recipes/published/$1.yaml" \
        --encoder "$data/models/mobilenetv2_100.json"
    compare "$1" mobilenetv2_100.json imagenet-val cam,centre_box
}

for study in ${*:-$studies}; do
    metrics="saliency_metric,localisation_error,pointing_game,energy"
    case $study in
    mobilenetv2)
        train mobilenetv2 mobilenetv2_100.json imagenet-train --config light
        compare mobilenetv2 mobilenetv2_100.json imagenet-val $photographs
        ;;
    sharp) # every photograph is measured once, at thresholds of the other half
        train sharp mobilenetv2_100.json imagenet-train --config sharp
        compare sharp mobilenetv2_100.json imagenet-val $photographs,excitation_backprop \
            --thresholds-from folds --no-cost
        $bin/python recipes/levels/fixed_level.py "$data/models/mobilenetv2_100.json" runs/sharp \
            "$data/data/imagenet-val"
        ;;
    sharp_curves) # deletion and insertion in 20 steps
        metrics=dauc,iauc
        compare sharp mobilenetv2_100.json imagenet-val cam,excitation_backprop,centre_box \
            --steps 20 --limit 120 --no-cost
        ;;
    squeezenet_sharp) # the same settings, untouched
        train squeezenet_sharp squeezenet1_1.json imagenet-train --config sharp
        compare squeezenet_sharp squeezenet1_1.json imagenet-val cam,grad_cam
        ;;
    lite0_sharp)
        train lite0_sharp ready:efficientnet_lite0 imagenet-train --config sharp
        compare lite0_sharp ready:efficientnet_lite0 imagenet-val cam,grad_cam,centre_box
        ;;
    paper)
        published paper
        ;;
    release)
        published release
        ;;
    lean) # the default
        train lean mobilenetv2_100.json imagenet-train --config lean
        compare lean mobilenetv2_100.json imagenet-val \
            cam,grad_cam,gradient,excitation_backprop,centre_box --no-cost
        $bin/python docs/pictures.py runs/lean
        ;;
    lean_protocols) # every photograph at thresholds of the other half, and as others publish it
        train lean mobilenetv2_100.json imagenet-train --config lean
        metrics="saliency_metric,localisation_error,pointing_game"
        compare lean mobilenetv2_100.json imagenet-val cam,grad_cam,centre_box \
            --thresholds-from folds --no-cost
        $bin/python recipes/levels/fixed_level.py "$data/models/mobilenetv2_100.json" runs/lean \
            "$data/data/imagenet-val" --level 0.5
        for protocol in maxboxacc torchray; do
            $bin/apercu compare --classifier "$data/models/mobilenetv2_100.json" \
                --images "$data/data/imagenet-val" --explainer runs/lean --protocol $protocol \
                --methods cam,grad_cam,centre_box --no-cost --out "runs/compare-lean-$protocol"
        done
        ;;
    lean_curves) # deletion and insertion: 120 photographs in 20 steps; 24 as RISE was published
        train lean mobilenetv2_100.json imagenet-train --config lean
        metrics=dauc,iauc
        compare lean mobilenetv2_100.json imagenet-val \
            cam,grad_cam,excitation_backprop,guided_backprop,lrp,centre_box \
            --steps 20 --limit 120 --no-cost
        $bin/apercu compare --classifier "$data/models/mobilenetv2_100.json" \
            --images "$data/data/imagenet-val" --explainer runs/lean --protocol rise \
            --methods cam --limit 24 --no-cost --out runs/compare-lean-rise
        ;;
    permuted) # does the mask find objects by itself? The weights in random order, the features as they were
        card=runs/permuted_classifier/card.json
        [ -f $card ] ||
            $bin/python recipes/evidence/permute.py "$data/models/mobilenetv2_100.json" runs/permuted_classifier
        train permuted $card imagenet-train --config lean --encoder "$data/models/mobilenetv2_100.json"
        compare permuted $card imagenet-val cam,centre_box --targets predicted --no-cost
        ;;
    squeezenet_lean)
        train squeezenet_lean squeezenet1_1.json imagenet-train --config lean
        compare squeezenet_lean squeezenet1_1.json imagenet-val cam,grad_cam,centre_box --no-cost
        ;;
    lite0_lean)
        train lite0_lean ready:efficientnet_lite0 imagenet-train --config lean
        compare lite0_lean ready:efficientnet_lite0 imagenet-val cam,grad_cam \
            --explainer ready:efficientnet_lite0 --no-cost
        ;;
    blackbox_lean) # another encoder, and no look into the classifier
        train blackbox_lean squeezenet1_1.json imagenet-train --config lean \
            --encoder "$data/models/mobilenetv2_100.json"
        compare blackbox_lean squeezenet1_1.json imagenet-val cam,grad_cam,centre_box --no-cost
        ;;
    squeezenet)
        train squeezenet squeezenet1_1.json imagenet-train --config light
        compare squeezenet squeezenet1_1.json imagenet-val $photographs
        ;;
    blackbox) # another encoder, and no look into the classifier
        train blackbox squeezenet1_1.json imagenet-train --config light \
            --encoder "$data/models/mobilenetv2_100.json"
        compare blackbox squeezenet1_1.json imagenet-val centre_box
        ;;
    cifar10) # no boxes
        metrics=saliency_metric
        train cifar10 resnet20_cifar10.pt2.json cifar10/train.parquet --config small
        compare cifar10 resnet20_cifar10.pt2.json cifar10/test.parquet \
            gradient,centre_box,whole_box --limit 500
        ;;
    cifar10_onnx)
        metrics=saliency_metric
        train cifar10_onnx resnet20_cifar10.onnx.json cifar10/train.parquet --config small
        compare cifar10_onnx resnet20_cifar10.onnx.json cifar10/test.parquet \
            centre_box,whole_box --limit 500
        ;;
    esac
    cat "runs/compare-$study/table.md"
done
