//! Pages of the evidence: one per report and one for the series. Placeholder until the drill runs end to end.
