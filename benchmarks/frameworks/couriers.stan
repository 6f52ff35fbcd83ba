data {
  int<lower=1> N;
  int<lower=1> J;
  array[N] int<lower=1, upper=J> courier;
  vector[N] distance;
  vector[N] minutes;
}
parameters {
  real mu;
  real<lower=0> tau;
  vector[J] a;
  real b;
  real<lower=0> sigma;
}
model {
  mu ~ normal(20, 10);
  tau ~ normal(0, 5);  // half-normal, since tau is positive
  a ~ normal(mu, tau);
  b ~ normal(0, 5);
  sigma ~ normal(0, 5);
  minutes ~ normal(a[courier] + b * distance, sigma);
}
