#!/bin/bash
{% block header %}
#SBATCH --job-name={{ id | quoted }}
{% if partition %}
#SBATCH --partition={{ partition | quoted }}
{% endif %}
{% if job_output %}
#SBATCH --output={{ job_output | quoted }}
{% endif %}
{% if after %}
#SBATCH --dependency=afterok:{{ after | join(":") }}
#SBATCH --kill-on-invalid-dep=yes
{% endif %}
{% if hold %}
#SBATCH --hold
{% endif %}
{% block resources %}
#SBATCH --ntasks={{ ntasks }}
#SBATCH --cpus-per-task={{ cpus_per_task }}
{% if memory_megabytes %}
#SBATCH --mem={{ memory_megabytes }}M
{% endif %}
{% if walltime %}
#SBATCH --time={{ walltime }}
{% endif %}
{% if gpus %}
#SBATCH --gpus={{ gpus }}
{% endif %}
{% endblock %}
{% endblock %}

set -e
set -u

{% block project %}
cd {{ project_path | quoted }}
{% endblock %}

{% block body %}
{% for operation in operations %}
# {{ operation.name }} on {{ operation.aggregate_id }}
{{ operation.command }}{{ " &" if parallel else "" }}
{% endfor %}
{% if parallel %}
failed=0
for child in $(jobs -p); do wait "$child" || failed=1; done
exit $failed
{% endif %}
{% endblock %}
