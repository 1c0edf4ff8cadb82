# Read by the scripts that take names of studies: refuses a name that is not known, before any work begins.

check_studies() { # all names, separated by spaces, then those that are asked for
    known=$1
    shift
    for study in $*; do
        case " $known " in
        *" $study "*) ;;
        *)
            echo "error: $study: no such study; choose from $known" >&2
            exit 2
            ;;
        esac
    done
}
