#!/bin/sh
# Every method on one table, cost included. About four hours on two cores, most of it `slow`.
#
#   APERCU_DATA=… recipes/all_methods.sh [mobilenetv2 slow squeezenet planted]
#
# Needs the runs of recipes/photographs.sh. Tables go to runs/; finished rows are kept.
set -eu
cd "$(dirname "$0")/.."
. recipes/studies.sh
studies="mobilenetv2 slow squeezenet planted"
check_studies "$studies" "$@"
data=${APERCU_DATA:-../shared}
maps="saliency_metric,localisation_error,pointing_game,energy,ncc,sparsity,total_variation"
curves="dauc,iauc,dc,ic,average_drop,increase"
boxes="centre_box,whole_box,true_box"
quick="cam,grad_cam,zoom_cam,grad_cam_pp,excitation_backprop,lrp,gradient,guided_backprop"
quick="$quick,input_x_gradient,$boxes,random,edges"
smooth="integrated_gradients:steps=20,smooth_grad:samples=20"
fitted="meaningful_perturbation,meaningful_perturbation:aim=sufficient"
fitted="$fitted,meaningful_perturbation:aim=full"
queries="$smooth,occlusion,rise:masks=1000,mfpp:masks=1000,guided_integrated_gradients:steps=20"
queries="$queries,smooth_taylor"
slow="cam,grad_cam,$queries,$fitted,grad_cam:augmented=8,centre_box,true_box"

compare() { # name classifier run methods metrics [options]
    name=$1 classifier=$2 run=$3 methods=$4 metrics=$5
    shift 5
    .venv/bin/apercu compare --classifier "$data/models/$classifier" \
        --images "$data/data/imagenet-val" --explainer "$run" --methods "$methods" \
        --metrics "$metrics" --steps 20 --out "runs/$name" "$@"
}

for study in ${*:-$studies}; do
    case $study in
    mobilenetv2)
        compare table-mobilenetv2 mobilenetv2_100.json runs/mobilenetv2 "$quick" "$maps,$curves"
        ;;
    slow) # minutes per image: thirty of the same images
        compare slow-mobilenetv2 mobilenetv2_100.json runs/mobilenetv2 "$slow" "$maps,$curves" --limit 30
        ;;
    squeezenet) compare table-squeezenet squeezenet1_1.json runs/squeezenet "$quick" "$maps" ;;
    planted) # what `make demo` trained; the truth is exact
        planted="compare --classifier demo/classifier/card.json --explainer demo/mask --steps 32"
        planted="$planted --images planted:images=60,split=test"
        .venv/bin/apercu $planted --out runs/table-planted \
            --methods "$quick,$queries,grad_cam:augmented=8,gradient:smoothed=0.03"
        # no metric that explains again and again: each of these masks is an optimisation
        regions="iou,iou_at_area,iou_over_percentiles,dauc,iauc"
        .venv/bin/apercu $planted --out runs/fitted-planted --methods "$fitted,true_box" \
            --metrics "saliency_metric,localisation_error,pointing_game,energy,ncc,$regions"
        ;;
    esac
done
