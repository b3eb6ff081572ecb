"""What the stages had the device and its driver do: recorded by CUPTI, accounted for by stage."""
