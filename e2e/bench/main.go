// Command bench measures what an admission costs, side by side.
package main

func main() {}
