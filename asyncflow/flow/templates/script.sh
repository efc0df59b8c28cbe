{% extends base_script %}
