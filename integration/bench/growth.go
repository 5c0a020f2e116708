package main

const growthName = "growth"

// atOnce is how many calls are made at once.
const atOnce = 16

// rate is how many calls a second a node gets done.
type rate struct {
	System    string `json:"system"`
	Call      string `json:"call"`
	PerSecond spread `json:"perSecond"`
}
